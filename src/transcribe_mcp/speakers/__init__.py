"""Speakers: who speaks when. One file per stage, from samples to turns."""
