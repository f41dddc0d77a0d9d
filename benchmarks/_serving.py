"""What the benchmarks of the servers share: their bundle, and a client of their requests for pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

import httpx

from guidegraph_runtime import Bundle, BundleError, SessionSettings

IMAGES = "/v1/images/generations"


def open_bundle(parser: argparse.ArgumentParser, folder: Path, threads: int = 1) -> Bundle:
    """The bundle in a folder, on the CPU. Ends the command with a line about the arguments if there is none."""
    try:
        return Bundle(folder.absolute(), SessionSettings.on("cpu", intra_threads=threads))
    except BundleError as error:
        parser.error(f"{error} (BUNDLE is a folder that guidegraph export wrote)")


def open_client(address: str) -> httpx.Client:
    """A client with as many connections as its requests need, and an hour for each answer."""
    return httpx.Client(base_url=address, timeout=3600, limits=httpx.Limits(max_connections=None))
