"""Folders of diffusers' `save_pretrained`: pipelines and single networks."""
