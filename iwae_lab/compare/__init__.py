"""`python -m iwae_lab.compare`: compares many runs, from files alone. Needs no torch."""
