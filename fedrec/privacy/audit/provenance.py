"""Sections of an audit's pages on the software that made the bundle, and on the keys to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrec.privacy.audit.bundled_ledger import BundledLedger
from fedrec.report.document import Code, Column, Paragraph, Section, Table

_RECHECK = (
    "Run 'fedrec audit verify audit.json', or copy the folder fedrec/privacy/audit/verify out of the "
    "source and run 'python -m verify audit.json' anywhere: it imports nothing of fedrec. It recomputes "
    "every figure here from the raw history, and holds these pages against the bundle. It proves that the "
    "record is consistent, not that a merchant ran what it wrote down."
)
_COMPARE = (
    "All of that rests on the keys below. Compare each, whole, with what its owner tells you by another "
    "way (by phone, on paper), or give it to verify with --server-key and --merchant."
)


def software_section(software: Mapping[str, str], ledgers: Sequence[BundledLedger]) -> Section:
    """List the code and the libraries that made the charges and this bundle.

    Args:
        software: versions by name, from the bundle's body.
        ledgers: of every merchant in the bundle.

    Returns:
        The section.
    """
    costs = [entry for ledger in ledgers for entry in ledger.costs]
    codes = sorted({entry.cost.code for entry in costs})
    accountants = sorted({entry.accountants for entry in costs})
    rows = [("this report was made by", Code(software["code"]))]
    rows += [("charges were made by", Code(code)) for code in codes]
    rows += [("accountants", Code(text)) for text in accountants]
    rows += [(name, Code(text)) for name, text in software.items() if name != "code"]
    return Section("Software", (Table((Column("what"), Column("version")), tuple(rows), stacks=True),))


def keys_section(body: Mapping[str, Any], ledgers: Sequence[BundledLedger], *, signer: str) -> Section:
    """List the public keys, and say how to recheck the bundle.

    Args:
        body: the bundle's body.
        ledgers: of every merchant in the bundle.
        signer: the public key that will sign the bundle, hexadecimal.

    Returns:
        The section.
    """
    rows = [("signer of this report", Code(signer)), *(("server", Code(key)) for key in body["servers"])]
    rows += [(ledger.name, Code(ledger.key)) for ledger in ledgers]
    keys = Table((Column("whose key"), Column("public key")), tuple(rows), stacks=True)
    return Section("How to recheck this", (Paragraph(_RECHECK), Paragraph(_COMPARE), keys))
