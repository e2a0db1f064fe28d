"""What studies of many training runs share: processes and locks, seeds, the records of the runs."""
