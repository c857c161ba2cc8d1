"""Hazard codes of the categories that public sources use. ``None`` means: harmful, hazard not stated."""

from __future__ import annotations

from collections.abc import Mapping

from guardrail_plugin.core.hazards import MLCOMMONS

# AILuminate 1.0 hazard codes (MLCommons), https://mlcommons.org/ailuminate
_AILUMINATE: Mapping[str, str] = {
    "vcr": "S1",
    "ncr": "S2",
    "src": "S3",
    "cse": "S4",
    "dfm": "S5",
    "spc_hlt": "S6",
    "spc_fin": "S6",
    "spc_lgl": "S6",
    "spc_ele": "S13",
    "prv": "S7",
    "ipv": "S8",
    "iwp": "S9",
    "hte": "S10",
    "ssh": "S11",
    "sxc_prn": "S12",
}
_CATQA: Mapping[str, str] = {
    "Adult Content": "S12",
    "Child Abuse / Content Sexual exploitation": "S4",
    "Child Abuse": "S1",
    "Economic Harm": "S2",
    "Fraud/Deception": "S2",
    "Hate/Harass/Violence": "S10",
    "Illegal Activity / Weapon": "S1",
    "Illegal Activity / Human Trafficking": "S3",
    "Illegal Activity": "S2",
    "Malware Viruses": "S2",
    "Physical Harm / Self-harm": "S11",
    "Physical Harm": "S1",
    "Political Campaigning": "S13",
    "Privacy Violation Activity": "S7",
    "Tailored Financial Advice": "S6",
}
_AART: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "acts of violence committed for political or ideological purposes", "animal abuse", "animal cruelty",
            "arson", "assassinations", "assault", "bombings", "cockfighting", "dog fighting", "domestic violence",
            "hijackings", "kidnapping", "kidnappings", "murder", "terrorism", "violence", "organ trafficking",
        ),
        "S1",
    ),
    **dict.fromkeys(
        (
            "burglary", "corporate fraud", "credit card fraud", "cyberterrorism", "driving under the influence",
            "drug abuse", "drug crimes", "drug dealing", "drug manufacturing", "drug possession", "drug trafficking",
            "embezzlement", "environmental crimes", "financial crimes", "fraud", "identity theft", "illegal dumping",
            "labor trafficking", "migrant smuggling", "money laundering", "ponzi schemes", "property crimes",
            "pyramid schemes", "robbery", "shoplifting", "tax evasion", "theft", "vandalism",
        ),
        "S2",
    ),
    **dict.fromkeys(("sex trafficking", "rape", "prostitution", "human trafficking"), "S3"),
    "hate crimes": "S10",
}  # fmt: skip
_CYBERSECEVAL = "S14"

# Sources that are only ever evaluated on. A category that mixes hazards is left out: it settles nothing.
_MULTIJAIL: Mapping[str, str] = {
    "Adult content": "S12",
    "Animal abuse": "S1",
    "Discrimination & injustice": "S10",
    "Fraud & deception": "S2",
    "Hate speech & offensive language": "S10",
    "Property crime & vandalism": "S2",
    "Self-harm": "S11",
    "Sexual exploitation & human trafficking": "S3",
    "Soliciting personally identifiable information": "S7",
    "Substance abuse & banned substances": "S2",
    "Theft": "S2",
    "Violence & incitement": "S1",
}
_HARMBENCH: Mapping[str, str] = {
    "chemical_biological": "S9",
    "copyright": "S8",
    "cybercrime_intrusion": "S2",
}
_STRONGREJECT: Mapping[str, str] = {
    "Hate, harassment and discrimination": "S10",
    "Illegal goods and services": "S2",
    "Non-violent crimes": "S2",
    "Sexual content": "S12",
    "Violence": "S1",
}
_JAILBREAKBENCH: Mapping[str, str] = {
    "Expert advice": "S6",
    "Fraud/Deception": "S2",
    "Harassment/Discrimination": "S10",
    "Malware/Hacking": "S2",
    "Privacy": "S7",
}
_SIMPLE_SAFETY_TESTS: Mapping[str, str] = {
    "Child safety": "S4",
    "Physical harm and Violence": "S1",
    "Scams and fraud": "S2",
    "Suicide, Self-Harm, and Eating Disorders": "S11",
}
_OPENAI_MODERATION: Mapping[str, str] = {
    "hate": "S10",
    "hate,hate/threatening": "S10",
    "self-harm": "S11",
    "sexual": "S12",
    "violence": "S1",
    "violence,violence/graphic": "S1",
}
_K_OVERREFUSAL: Mapping[str, str] = {
    "harm_chem_bio": "S9",
    "harm_cyber": "S2",
    "harm_drugs": "S2",
    "harm_financial": "S2",
    "harm_fraud_forgery": "S2",
    "harm_hate_harass": "S10",
    "harm_illegal_goods": "S2",
    "harm_privacy_surveil": "S7",
    "harm_violence": "S1",
}
_XSTEST: Mapping[str, str] = {"contrast_discr": "S10", "contrast_privacy": "S7"}
_EXACT: Mapping[str, Mapping[str, str]] = {
    "ailuminate": _AILUMINATE,
    "strongreject": _STRONGREJECT,
    "jailbreakbench_harmful": _JAILBREAKBENCH,
    "simple_safety_tests": _SIMPLE_SAFETY_TESTS,
    "openai_moderation": _OPENAI_MODERATION,
    "k_overrefusal": _K_OVERREFUSAL,
    "xstest": _XSTEST,
    "safety_tuned_llamas_eval": {"I-CoNa": "S10"},
}


def hazard_of(source: str, category: str | None) -> str | None:
    """Return the hazard code for a harmful row, or ``None`` where source and category do not settle it.

    A category that is itself a code of ours (``S9``, ``PI``) is taken as it is.
    """
    if source.startswith("cyberseceval_interpreter"):
        return _CYBERSECEVAL
    if category is None:
        return None
    if category in MLCOMMONS:
        return category
    for name, table in _EXACT.items():
        if source.startswith(name):
            return table.get(category)
    if source.startswith("catqa"):
        return _longest_prefix(_CATQA, category)
    if source.startswith("aart"):
        return _AART.get(category) or ("S10" if category.startswith("crimes motivated by") else None)
    if source.startswith("kosbi"):
        return "S10"
    if source.startswith("harmbench"):
        return _HARMBENCH.get(category.rpartition(" / ")[2])
    return _one_of_all(category) if source.startswith("multijail") else None


def _longest_prefix(table: Mapping[str, str], category: str) -> str | None:
    fitting = [name for name in table if category.startswith(name)]
    return table[max(fitting, key=len)] if fitting else None


def _one_of_all(tags: str) -> str | None:
    """Return the hazard that every tag of a list like ``"['Theft', 'Fraud & deception']"`` stands for, if it is one."""
    codes = {_MULTIJAIL.get(tag.strip(" '\"")) for tag in tags.strip("[]").split("', '")}
    return codes.pop() if len(codes) == 1 else None
