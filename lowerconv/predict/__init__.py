"""Foresight: how long a network takes to train on machines that are described, not used."""
