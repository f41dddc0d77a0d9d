"""Networks that several families have, with their parameters under the released names."""
