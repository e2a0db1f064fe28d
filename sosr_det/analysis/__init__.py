"""Reading run records: tables and figures."""
