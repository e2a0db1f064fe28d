"""What ``CheckedVOCDataset`` does while it loads, one step a file. Import the module that you need."""
