"""Data sets, transforms and the demo data generator. Import the module that you need."""
