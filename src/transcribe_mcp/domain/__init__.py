"""Records and rules that every part shares: no models, no devices, no network."""
