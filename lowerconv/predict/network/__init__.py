"""Simulation of messages on the network of a cluster.

A `Topology` says which links there are and which of them a message from one host to another takes.
A collective is a `Schedule` of messages, recorded from the generators that the engine runs.  Both
together make a `FlowGraph`, and `simulate` says when each of its flows begins and ends.
"""
