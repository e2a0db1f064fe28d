"""Names, tags and URIs: what is accepted, and that everything else is explained."""

import pytest

from sosr_det.errors import RegistryError
from sosr_det.registry.names import MAX_LENGTH, SosrUri, check_name, check_tag, parse_uri

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "word", ["a", "7", "resnet50-in1k-sosr", "A_b.c-d", "v1.0", "x" * MAX_LENGTH, "console"]
)
def test_good_names_and_tags(word):
    assert check_name(word) == check_tag(word) == word


@pytest.mark.parametrize(
    "word",
    [
        *(
            "",
            ".",
            "..",
            "a..b",
            "../x",
            "a/b",
            "a\\b",
            "/etc",
            ".hidden",
            "-x",
            "_x",
            "a.",
            "a b",
            "a\n",
            "a\0",
            "~",
        ),
        *(
            "ä",
            "x" * (MAX_LENGTH + 1),
            "CON",
            "nul.txt",
            "lpt1",
            "sha256",
            "SHA256-x",
            "sha256:" + HEX,
            "a@b",
            "a:b",
        ),
        *(None, 3),
    ],
)
def test_bad_names_and_tags_are_explained(word):
    for check in (check_name, check_tag):
        with pytest.raises(RegistryError, match="expected letters, digits"):
            check(word)


def test_the_three_forms_of_a_uri():
    assert parse_uri("sosr://r50") == SosrUri(name="r50", tag="latest")
    assert parse_uri("sosr://r50@v1.2") == SosrUri(name="r50", tag="v1.2")
    assert parse_uri(f"sosr://sha256:{HEX}") == SosrUri(digest=HEX)
    assert parse_uri(f"sosr://sha256:{HEX.upper()}") == SosrUri(digest=HEX)
    for uri in ("sosr://r50@v1.2", f"sosr://sha256:{HEX}"):
        assert str(parse_uri(uri)) == uri


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "",
            "r50",
            "http://x",
            "sosr:/r50",
            "SOSR://r50",
            "sosr://",
            "sosr://@v1",
            "sosr://r50@",
            "sosr://r50@v1@v2",
        ),
        *(
            "sosr://a/b",
            "sosr://../../etc/passwd",
            "sosr://r50@../x",
            f"sosr://sha256:{HEX[:-1]}",
            "sosr://sha256:",
        ),
        *(
            f"sosr://sha256:{HEX}0",
            f"sosr://sha256:{'g' * 64}",
            f"sosr://sha256:{HEX}@v1",
            f"sosr://md5:{HEX}",
            None,
        ),
    ],
)
def test_other_forms_are_refused_with_an_example(uri):
    with pytest.raises(RegistryError, match="expected"):
        parse_uri(uri)
