"""Studies: arms times worlds times seeds, paired; planned once, done once, told with intervals."""
