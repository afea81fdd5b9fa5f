"""`python -m iwae_lab.compare`: what the records of many runs say, from files alone. Needs no torch."""
