"""Plain types that every room shares: errors, hazards, verdicts, policies. Standard library and pydantic only."""
