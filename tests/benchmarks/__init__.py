"""Figures on this machine, in this run, as ratios. They are read by people and never fail a build."""
