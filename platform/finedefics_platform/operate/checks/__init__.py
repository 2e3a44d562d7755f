"""The checks of the doctor, by what they look at: the machine, the packages, the services."""
