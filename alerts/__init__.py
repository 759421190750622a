"""Alert rules, diagnosis and runbooks, generated from one SLO file."""
