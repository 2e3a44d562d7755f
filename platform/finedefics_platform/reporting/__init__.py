"""What people look at: tables and the self-contained report."""
