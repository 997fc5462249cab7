"""The ranks of a job, and the messages that they exchange."""
