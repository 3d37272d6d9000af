"""Adds the C libraries inside callbridge's -sys crates to a CycloneDX file, with the versions that their own sources say.

Usage: c_libraries.py SBOM METADATA >NEW, where METADATA is the output of cargo metadata. Without times and serial numbers: the same sources make
the same file.
"""

import json
import pathlib
import re
import sys


def numbers(file, *names):
    """The values of these macros, joined by dots."""
    text = file.read_text()
    return ".".join(re.search(rf"#define\s+{name}\s+(\d+)", text).group(1) for name in names)


def librdkafka(folder):
    text = (folder / "librdkafka/src/rdkafka.h").read_text()
    value = int(re.search(r"#define\s+RD_KAFKA_VERSION\s+0x([0-9a-f]{8})", text).group(1), 16)
    return ".".join(str(value >> shift & 0xFF) for shift in (24, 16, 8))


def openssl(folder):
    text = (folder / "openssl/VERSION.dat").read_text()
    return ".".join(re.search(rf"^{name}=(\d+)$", text, re.M).group(1) for name in ("MAJOR", "MINOR", "PATCH"))


def zlib(folder):
    return re.search(r'#define ZLIB_VERSION "([^"]+)"', (folder / "src/zlib/zlib.h").read_text()).group(1)


def zstd(folder):
    return numbers(folder / "zstd/lib/zstd.h", "ZSTD_VERSION_MAJOR", "ZSTD_VERSION_MINOR", "ZSTD_VERSION_RELEASE")


def lz4(folder):
    return numbers(folder / "librdkafka/src/lz4.h", "LZ4_VERSION_MAJOR", "LZ4_VERSION_MINOR", "LZ4_VERSION_RELEASE")


def mimalloc(folder):
    # build.rs takes v3 unless the feature v2 is on.
    value = int(numbers(folder / "c_src/mimalloc/v3/include/mimalloc.h", "MI_MALLOC_VERSION"))
    return f"{value // 10000}.{value // 100 % 100}.{value % 100}"


# Name, the crate that has its source, its version, its repository and tag, its licence; and its vendor and name in the NVD, where it has one.
LIBRARIES = [
    ("librdkafka", "rdkafka-sys", librdkafka, "confluentinc/librdkafka", "v{}", "BSD-2-Clause", None),
    ("lz4", "rdkafka-sys", lz4, "lz4/lz4", "v{}", "BSD-2-Clause", "lz4_project:lz4"),
    ("openssl", "openssl-src", openssl, "openssl/openssl", "openssl-{}", "Apache-2.0", "openssl:openssl"),
    ("zlib", "libz-sys", zlib, "madler/zlib", "v{}", "Zlib", "zlib:zlib"),
    ("zstd", "zstd-sys", zstd, "facebook/zstd", "v{}", "BSD-3-Clause", "facebook:zstandard"),
    ("mimalloc", "libmimalloc-sys", mimalloc, "microsoft/mimalloc", "v{}", "MIT", None),
]


def main():
    sbom = json.loads(pathlib.Path(sys.argv[1]).read_text())
    metadata = json.loads(pathlib.Path(sys.argv[2]).read_text())
    packages = {package["name"]: package for package in metadata["packages"]}
    sbom.pop("serialNumber", None)
    sbom["metadata"].pop("timestamp", None)
    for name, crate, version_in, repository, tag, licence, nvd in LIBRARIES:
        package = packages[crate]
        version = version_in(pathlib.Path(package["manifest_path"]).parent)
        purl = f"pkg:github/{repository}@{tag.format(version)}"
        component = {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "description": f"Compiled from the source in the crate {crate} {package['version']}",
            "licenses": [{"license": {"id": licence}}],
            "purl": purl,
        }
        if nvd:
            component["cpe"] = f"cpe:2.3:a:{nvd}:{version}:*:*:*:*:*:*:*"
        sbom["components"].append(component)
        of_crate = [it for it in sbom["dependencies"] if f"{crate}@" in it["ref"]]
        if not of_crate:
            sys.exit(f"{crate} is not in {sys.argv[1]}")
        of_crate[0].setdefault("dependsOn", []).append(purl)
    json.dump(sbom, sys.stdout, indent=2)
    print()


main()
