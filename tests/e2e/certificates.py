"""Authorities and certificates of a test, made on the spot by the openssl program."""

import pathlib
import subprocess


def run(*arguments, **options):
    return subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60, **options)


class Authority:
    """Signs certificates. Files lie in `folder` (a pathlib.Path) under names of their own."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.key, self.certificate = folder / f"{name}.key", folder / f"{name}.pem"
        run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-keyout", self.key, "-out", self.certificate, "-subj", f"/CN={name}")
        (folder / f"{name}.index").write_text("")
        (folder / f"{name}.cnf").write_text(
            f"[ca]\ndefault_ca=all\n[all]\ndatabase={folder}/{name}.index\nnew_certs_dir={folder}\nrand_serial=yes\n"
            "policy=any\ndefault_md=sha256\nunique_subject=no\ncopy_extensions=copy\n[any]\ncommonName=supplied\n")

    def issue(self, name, begin="20200101000000Z", end="20500101000000Z", key=("ec", "-pkeyopt", "ec_paramgen_curve:P-256")):
        """(certificate, key), files; good for localhost and 127.0.0.1. Times as openssl writes them."""
        path = self.folder / name
        files = path.with_suffix(".crt"), path.with_suffix(".key")
        request = path.with_suffix(".csr")
        run("req", "-newkey", *key, "-nodes", "-keyout", files[1], "-out", request, "-subj", f"/CN={name}",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
        run("ca", "-batch", "-notext", "-config", self.folder / f"{self.name}.cnf", "-cert", self.certificate,
            "-keyfile", self.key, "-in", request, "-out", files[0], "-startdate", begin, "-enddate", end)
        return files


def subject(certificate):
    """The common name in a certificate in PEM, as bytes or text."""
    text = certificate if isinstance(certificate, bytes) else certificate.encode()
    answer = run("x509", "-noout", "-subject", "-nameopt", "multiline", input=text).stdout.decode()
    return answer.rpartition("commonName")[2].strip(" =\n")


def encrypted(key, path):
    """The key, with a password."""
    run("pkcs8", "-topk8", "-in", key, "-out", path, "-passout", "pass:secret")
    return pathlib.Path(path)
