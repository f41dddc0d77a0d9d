"""The words of a choice, in workflows and in bundles: ``choose: {when: …, of: {VALUE: …}, otherwise: …}``."""

CHOOSE = "choose"
WHEN = "when"
OF = "of"
OTHERWISE = "otherwise"
