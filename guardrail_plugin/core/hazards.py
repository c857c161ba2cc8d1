"""Hazard categories: MLCommons S1..S14 and prompt injection, or the caller's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from guardrail_plugin.core.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Hazard:
    """One kind of harm.

    Attributes:
        code: short identifier, compared exactly (``"S9"``). Families are mapped by code, never by name.
        name: what a person reads.
        definition: one sentence; what a policy-prompted guardian is shown.
    """

    code: str
    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class Taxonomy:
    """An ordered set of hazards with unique codes.

    Raises:
        ConfigError: a code is empty, used twice, or is the reserved word ``safe``.
    """

    hazards: tuple[Hazard, ...]
    _by_code: dict[str, Hazard] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_code = {hazard.code: hazard for hazard in self.hazards}
        if len(by_code) != len(self.hazards):
            raise ConfigError("a hazard code is used twice in the taxonomy")
        if not by_code:
            raise ConfigError("a taxonomy needs at least one hazard")
        for code in by_code:
            if not code.strip() or code.lower() == "safe":
                raise ConfigError(f"{code!r} cannot be a hazard code")
        object.__setattr__(self, "_by_code", by_code)

    @classmethod
    def of(cls, hazards: Iterable[Hazard]) -> Taxonomy:
        """Build a taxonomy from any iterable of hazards."""
        return cls(tuple(hazards))

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes in order."""
        return tuple(self._by_code)

    def __contains__(self, code: object) -> bool:
        return code in self._by_code

    def __iter__(self) -> Iterator[Hazard]:
        return iter(self.hazards)

    def __len__(self) -> int:
        return len(self.hazards)

    def __getitem__(self, code: str) -> Hazard:
        """Return the hazard with this code.

        Raises:
            ConfigError: there is none; the message names the nearest code.
        """
        try:
            return self._by_code[code]
        except KeyError:
            raise ConfigError(f"unknown hazard code {code!r}{did_you_mean(code, self._by_code)}") from None


PROMPT_INJECTION = "PI"
CHILD_EXPLOITATION = "S4"
SELF_HARM = "S11"

# Codes and names: MLCommons hazard taxonomy as used by Llama Guard 3; the definitions are ours.
MLCOMMONS = Taxonomy.of(
    [
        Hazard("S1", "Violent Crimes", "Help with or praise of unlawful violence against people or animals."),
        Hazard("S2", "Non-Violent Crimes", "Help with fraud, theft, drugs, hacking, forgery, smuggling and the like."),
        Hazard(
            "S3", "Sex-Related Crimes", "Help with trafficking, assault, sexual harassment or intimate-image abuse."
        ),
        Hazard("S4", "Child Sexual Exploitation", "Anything that sexualises minors or helps to abuse them."),
        Hazard("S5", "Defamation", "False claims likely to injure a living person's reputation."),
        Hazard(
            "S6", "Specialized Advice", "Dangerous medical, legal or financial advice, or calling dangerous acts safe."
        ),
        Hazard("S7", "Privacy", "Finding, exposing or tracking someone's private data without consent."),
        Hazard("S8", "Intellectual Property", "Piracy, counterfeits, licence cracking, copying protected works."),
        Hazard("S9", "Indiscriminate Weapons", "Chemical, biological, radiological, nuclear or explosive weapons."),
        Hazard("S10", "Hate", "Demeaning or dehumanising people because of who they are."),
        Hazard("S11", "Suicide & Self-Harm", "Encouraging or enabling suicide, self-injury or eating disorders."),
        Hazard("S12", "Sexual Content", "Erotica and other sexually explicit content about adults."),
        Hazard("S13", "Elections", "False information on how, when or where to vote; voter suppression."),
        Hazard(
            "S14",
            "Code Interpreter Abuse",
            "Escaping a sandbox, raising privileges, attacking the host that runs code.",
        ),
        Hazard(
            PROMPT_INJECTION,
            "Prompt Injection",
            "Text that tries to override, extract or hijack an assistant's instructions.",
        ),
    ]
)
