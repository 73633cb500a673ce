#!/usr/bin/env python3
"""Makes a container image without a container engine: one layer, from files of this machine.

Out: a tar that is an OCI layout and what `docker save` writes, both over the same blobs, so that `ctr images import`,
`docker load` and `kind load image-archive` take it; or, with --tree, a directory with the same content.

A program brings the libraries along that the loader would find for it. Directories are Debian's: /bin, /sbin and /lib lead
into /usr. The same files give the same image: entries are sorted, owned by root and of no time, and nothing is compressed.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

# Where Debian's links of the root lead.
MERGED = ("bin", "sbin", "lib", "lib64")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
OCI = "application/vnd.oci.image"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Documentation of packages is nothing that a program needs.
LEFT_OUT = ("usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/lintian/", "usr/share/info/")


class Mistake(Exception):
    """What the caller has to put right."""


class Layer:
    """The files of an image by their path in it: bytes with a mode, a link's target, or None for a directory."""

    def __init__(self):
        self.entries = {}
        for link in MERGED:
            self.entries[link] = ("link", f"usr/{link}")
            self.entries[f"usr/{link}"] = ("directory", 0o755)

    def path(self, place):
        """A path in the image, without the leading slash and not through a link of the root."""
        parts = PurePosixPath("/" + place).parts[1:]
        if ".." in parts or not parts:
            raise Mistake(f"{place!r} is no path in an image")
        if parts[0] in MERGED and len(parts) > 1:
            parts = ("usr",) + parts
        return "/".join(parts)

    def put(self, place, entry):
        """Puts an entry in, and the directories above it."""
        path = self.path(place)
        for parent in list(PurePosixPath(path).parents)[:-1]:
            self.entries.setdefault(str(parent), ("directory", 0o755))
        self.entries[path] = entry

    def file(self, source, place):
        """A file as it is here, or what a link leads to."""
        source = Path(source)
        if not source.is_file():
            raise Mistake(f"{source} is no file of this machine")
        mode = 0o755 if os.access(source, os.X_OK) and source.stat().st_mode & 0o111 else 0o644
        self.put(place, ("file", mode, source.read_bytes()))

    def program(self, source, place):
        """A file and the libraries that the loader finds for it."""
        self.file(source, place)
        for library in libraries(source):
            self.file(library, library)

    def package(self, name):
        """The files of an installed Debian package, with the libraries of its programs."""
        for line in run(["dpkg-query", "--listfiles", name]).splitlines():
            path = line.strip()
            if not path.startswith("/") or path.lstrip("/").startswith(LEFT_OUT):
                continue
            if os.path.islink(path):
                self.put(path, ("link", os.readlink(path)))
            elif os.path.isfile(path):
                self.program(path, path)

    def tar(self):
        """The layer's bytes."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, (kind, *what) in sorted(self.entries.items()):
                info = tarfile.TarInfo(path)
                content = None
                if kind == "directory":
                    info.type, info.mode = tarfile.DIRTYPE, what[0]
                elif kind == "link":
                    info.type, info.linkname, info.mode = tarfile.SYMTYPE, what[0], 0o777
                else:
                    info.mode, info.size, content = what[0], len(what[1]), io.BytesIO(what[1])
                tar.addfile(info, content)
        return out.getvalue()

    def write(self, root):
        """The layer as a directory."""
        # A directory sorts before what is in it.
        for path, (kind, *what) in sorted(self.entries.items()):
            place = Path(root) / path
            if kind == "directory":
                place.mkdir(parents=True, exist_ok=True)
                place.chmod(what[0])
            elif kind == "link":
                place.symlink_to(what[0])
            else:
                place.write_bytes(what[1])
                place.chmod(what[0])


def run(command):
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Mistake(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def libraries(program):
    """The shared libraries and the loader of a program, by the paths at which it looks for them."""
    with open(program, "rb") as file:
        if file.read(4) != b"\x7fELF":
            return []
    # `ldd` fails for what is linked statically.
    said = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    missing = re.findall(r"(\S+) => not found", said)
    if missing:
        raise Mistake(f"{program} needs {', '.join(missing)}, which this machine doesn't have")
    return re.findall(r"(/\S+) \(0x", said)


def digest(blob):
    """A blob's name."""
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def descriptor(kind, blob):
    """What refers to a blob."""
    return {"mediaType": f"{OCI}.{kind}", "digest": digest(blob), "size": len(blob)}


def encoded(value):
    """JSON that is the same each time."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def archive(layer, name, config):
    """The bytes of the whole image: OCI's index and Docker's manifest over the same blobs."""
    machine = platform.machine()
    content = layer.tar()
    image = encoded({
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(content)]},
    })
    manifest = encoded({
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": descriptor("config.v1+json", image),
        "layers": [descriptor("layer.v1.tar", content)],
    })
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    index = {"schemaVersion": 2, "manifests": [{**descriptor("manifest.v1+json", manifest), "annotations": annotations}]}
    place = lambda blob: "blobs/sha256/" + digest(blob).partition(":")[2]
    docker = [{"Config": place(image), "RepoTags": [name], "Layers": [place(content)]}]
    whole = Layer.__new__(Layer)
    whole.entries = {place(blob): ("file", 0o644, blob) for blob in (image, manifest, content)}
    whole.entries["blobs"] = whole.entries["blobs/sha256"] = ("directory", 0o755)
    for file, value in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index), ("manifest.json", docker)):
        whole.entries[file] = ("file", 0o644, encoded(value))
    return whole.tar()


def pair(text):
    """SOURCE:PLACE."""
    source, _, place = text.rpartition(":")
    if not source or not place.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not SOURCE:/PLACE")
    return source, place


def arguments():
    """What the caller wants."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", help="the tar to write")
    where.add_argument("--tree", help="the directory to write, which must not exist, instead of a tar")
    parser.add_argument("--name", help="the image's name and tag")
    parser.add_argument("--program", type=pair, action="append", default=[], help="a program, with its libraries")
    parser.add_argument("--file", type=pair, action="append", default=[], help="a file")
    parser.add_argument("--link", type=pair, action="append", default=[], help="TARGET:/PLACE, a symbolic link")
    parser.add_argument("--text", type=pair, action="append", default=[], help="CONTENT:/PLACE, a file of one line")
    parser.add_argument("--package", action="append", default=[], help="all files of an installed Debian package")
    parser.add_argument("--directory", action="append", default=[], help="a directory that all may write to")
    parser.add_argument("--user", default="0:0", help="who runs it")
    parser.add_argument("--entrypoint", default="", help="the program that it runs")
    args = parser.parse_args()
    if args.out and not (args.name and ":" in args.name):
        parser.error("--out needs a --name with a tag, NAME:TAG")
    return args


def gather(args):
    """The layer that the caller wants."""
    layer = Layer()
    for package in args.package:
        layer.package(package)
    for source, place in args.program:
        layer.program(source, place)
    for source, place in args.file:
        layer.file(source, place)
    for target, place in args.link:
        layer.put(place, ("link", target))
    for content, place in args.text:
        layer.put(place, ("file", 0o644, content.encode() + b"\n"))
    for place in args.directory:
        layer.put(place, ("directory", 0o1777))
    return layer


def main():
    """Writes the image whole, or not at all."""
    args = arguments()
    layer = gather(args)
    if args.tree:
        os.mkdir(args.tree)
        layer.write(args.tree)
        return
    config = {"Env": [f"PATH={SEARCH_PATH}"], "User": args.user, "WorkingDir": "/"}
    if args.entrypoint:
        config["Entrypoint"] = [args.entrypoint]
    half = f"{args.out}.{os.getpid()}.new"
    with open(half, "wb") as file:
        file.write(archive(layer, args.name, config))
    os.rename(half, args.out)


if __name__ == "__main__":
    try:
        main()
    except (Mistake, OSError) as error:
        sys.exit(f"image.py: {error}")
