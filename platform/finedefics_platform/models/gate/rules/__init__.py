"""The product's own rules: a function each, found by lying here (`finedefics_platform.models.gate.RULES`)."""
