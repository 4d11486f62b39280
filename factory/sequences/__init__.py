"""Pulse sequences: Pulseq files in, one table of intervals out, which every engine reads."""
