"""Requests that do not come from the page itself are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.page.tests.conftest import PORT, Site

PATHS = ("", "app.js", "api/workflows", "api/view?name=draw.yaml", "api/events?name=draw.yaml", "api/runs")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", ["", "x" * 32, "api", "%2e%2e"])
def test_no_token_or_another_is_refused(site: Site, path: str, token: str) -> None:
    response = site.client.get(f"/{token}/{path}" if token else f"/{path}")
    assert response.status_code == 403
    assert "token" in response.text
    assert site.access.token not in response.text


@pytest.mark.parametrize("path", PATHS[:4])
@pytest.mark.parametrize(
    "host", ["attacker.example", f"attacker.example:{PORT}", "127.0.0.1:1", f"127.0.0.1.nip.io:{PORT}"]
)
def test_a_rebinding_host_name_is_refused(site: Site, path: str, host: str) -> None:
    response = site.client.get(f"/{site.access.token}/{path}", headers={"host": host})
    assert response.status_code == 403


@pytest.mark.parametrize(
    "origin", ["http://attacker.example", "null", "https://127.0.0.1:8000", "http://127.0.0.1:8001"]
)
def test_another_origin_is_refused(site: Site, origin: str) -> None:
    headers = {"origin": origin}
    assert site.client.get(f"/{site.access.token}/api/view?name=draw.yaml", headers=headers).status_code == 403
    body = {"name": "draw.yaml", "path": "params.seed.default", "value": "9"}
    assert site.client.post(f"/{site.access.token}/api/edits", json=body, headers=headers).status_code == 403
    assert "default: 3," in (site.folder / "draw.yaml").read_text()


def test_a_request_that_another_site_causes_is_refused(site: Site) -> None:
    for source in ("cross-site", "same-site"):
        response = site.client.get(f"/{site.access.token}/", headers={"sec-fetch-site": source})
        assert response.status_code == 403


def test_the_page_itself_is_served(site: Site) -> None:
    for headers in ({}, {"origin": f"http://127.0.0.1:{PORT}", "sec-fetch-site": "same-origin"}):
        assert site.client.get(f"/{site.access.token}/api/workflows", headers=headers).status_code == 200
    assert "app.js" in site.get("").text
    assert site.get("app.js").headers["content-type"].startswith("text/javascript")
    assert "[data-node]" in site.get("page.css").text


def test_an_address_without_the_last_slash_leads_to_the_page(site: Site) -> None:
    response = site.client.get(f"/{site.access.token}", follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (307, f"/{site.access.token}/")


def test_every_answer_has_the_strict_policy(site: Site) -> None:
    for response in (site.get(""), site.get("api/workflows"), site.get("nothing"), site.client.get("/")):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"


def test_tokens_differ_and_are_long() -> None:
    from guidegraph_page.access import Access

    tokens = {Access(PORT).token for _ in range(20)}
    assert len(tokens) == 20
    assert min(map(len, tokens)) >= 32


@pytest.mark.parametrize(
    "name",
    [
        "../secret.yaml",
        "more/../../secret.yaml",
        "draw.yaml/",
        "./draw.yaml",
        "/etc/passwd",
        "..%2fsecret.yaml",
        "link.yaml",
        "draw.yaml\0",
        "a" * 300 + ".yaml",
        "draw.txt",
        "",
    ],
)
def test_a_workflow_outside_of_the_folder_is_refused(site: Site, name: str) -> None:
    outside = site.folder.parent / "secret.yaml"
    outside.write_text("guidegraph: 1\n# secret\n")
    (site.folder / "link.yaml").symlink_to(outside)
    assert "link.yaml" not in site.get("api/workflows").json()["names"]
    response = site.get("api/view", name=name)
    assert response.status_code == 404
    assert "# secret" not in response.text
    assert site.post("api/runs", name=name, params={}).status_code == 404
    assert site.post("api/edits", name=name, path="params.seed", value="1").status_code == 404


@pytest.mark.parametrize(
    "path", ["../page.css", "vendor/../../server.py", "..%2f..%2fserver.py", "server.py", "%2e%2e/server.py"]
)
def test_no_file_beside_those_of_the_page_is_served(site: Site, path: str) -> None:
    response = site.client.get(f"/{site.access.token}/{path}")
    assert response.status_code in (403, 404)
    assert "import" not in response.text


def test_only_pictures_of_runs_are_served(site: Site) -> None:
    run = site.folder / "runs" / "one"
    run.mkdir(parents=True)
    png = b"\x89PNG\r\n\x1a\n"
    (run / "image.png").write_bytes(png)
    (run / "fake.png").write_text("<script>alert(1)</script>")
    (run / "run.json").write_text("{}")
    outside = site.folder / "outside.png"
    outside.write_bytes(png)
    (run / "link.png").symlink_to(outside)
    served = site.get("runs/one/image.png")
    assert (served.status_code, served.content, served.headers["content-type"]) == (200, png, "image/png")
    (run / "circle.png").symlink_to("circle.png")
    for path in (
        "fake.png",
        "circle.png",
        outside,
        "a" * 300 + ".png",
        "run.json",
        "link.png",
        "../../outside.png",
        "..%2f..%2foutside.png",
        "missing.png",
    ):
        assert site.get(f"runs/one/{path}").status_code == 404


def test_one_file_is_shown_alone(tmp_path: Path, site: Site) -> None:
    from guidegraph_page.folder import UnknownWorkflow, WorkflowFolder

    folder = WorkflowFolder.open(site.folder / "draw.yaml")
    assert folder.list_names() == ["draw.yaml"]
    with pytest.raises(UnknownWorkflow, match=r"'draw\.yaml' alone"):
        folder.locate("more/broken.yaml")
