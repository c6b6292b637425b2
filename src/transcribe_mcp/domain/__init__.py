"""Plain records and rules about text: no files, no models, no devices."""
