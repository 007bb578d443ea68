"""Folders of labelled images, and 8-bit pixels in and out.

No networks, no attacks. Begin with `list_images`, `read_batches` and `Writer`.
"""
