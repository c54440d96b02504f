"""Says of a file that is neither slice nor scan what it is, by its first bytes, and what to do.

Names say what a file should be; a download that failed or a wrong ending shows in the bytes alone.
What a slice is to one room and a scan to the other, each adds for itself.
"""

_UNPACK = "Unpack it first."
_BEGINS = {
    b"\x1f\x8b": f"is packed with gzip. {_UNPACK}",
    b"BZh": f"is packed with bzip2. {_UNPACK}",
    b"\xfd7zXZ\0": f"is packed with xz. {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"is packed with zstd. {_UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"is a 7z archive. {_UNPACK}",
    b"Rar!": f"is a RAR archive. {_UNPACK}",
    b"PK\x03\x04": f"is a zip. {_UNPACK}",
    b"version https://git-lfs": "is a pointer of Git LFS and not the file. Run git lfs pull.",
    b"%PDF": "is a PDF. Leave it out.",
}
_WEB_PAGES = (b"<!doctype html", b"<html", b"<?xml")  # storage says in XML why it gives nothing


def describe_foreign(head: bytes) -> str | None:
    """Say what a file is that begins so, where it is nothing that is read, and what helps."""
    if not head:
        return "empty (0 bytes). Copy it again, or remove it."
    if not any(head):
        return "begins with zeros alone: a copy that did not end. Copy it again."
    if head.lstrip()[:20].lower().startswith(_WEB_PAGES):
        return "is a web page: a download that failed. Download it again."
    if head[257:262] == b"ustar":
        return f"is a tar archive. {_UNPACK}"
    return next((why for magic, why in _BEGINS.items() if head.startswith(magic)), None)
