"""Extracts archives with Python's tarfile: a line of standard input for each, the archive and the directory with a
tab between them, and a line of standard output with "applied" or with why not.

What stands in the way of an entry is removed first, unless both are directories, as a layer wants it: Python writes
into it, or through a link. Nothing leaves the directory.
"""

import os
import shutil
import sys
import tarfile

TRUSTED = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}


def inside(name):
    name = name.lstrip("/")
    if ".." in name.split("/"):
        raise ValueError("a name leads upwards: " + name)
    return name


def place(tar, member, root):
    member.name = inside(member.name)
    if member.islnk():
        member.linkname = inside(member.linkname)
    path = os.path.join(root, member.name)
    parent = os.path.realpath(os.path.dirname(path))
    if parent != root and not parent.startswith(root + "/"):
        raise ValueError("outside: " + member.name)
    is_there = os.path.lexists(path)
    if is_there and member.islnk():
        other = os.path.join(root, member.linkname)
        if os.path.lexists(other) and os.path.samestat(os.lstat(other), os.lstat(path)):
            return
    if is_there and not os.path.islink(path) and os.path.isdir(path):
        if not member.isdir():
            shutil.rmtree(path)
    elif is_there:
        os.unlink(path)
    # A hard link has the attributes of the file.
    tar.extract(member, root, set_attrs=not member.islnk(), numeric_owner=True, **TRUSTED)


def extract(archive, root):
    with tarfile.open(archive, "r:") as tar:
        member = tar.next()
        while member is not None:
            place(tar, member, root)
            member = tar.next()
        # Python takes a header that it cannot read for the end.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(512).strip(b"\0"):
            raise ValueError("no header at byte %d" % tar.offset)


for line in sys.stdin:
    archive, root = line.rstrip("\n").split("\t")
    try:
        extract(archive, os.path.realpath(root))
        print("applied")
    except Exception as error:
        print("refused:", type(error).__name__, ascii(str(error)))
