"""What runs, evaluations, searches and studies have, gathered: for a report, and to put runs side by side."""
