-- Accounts live apart from runs: each has its own migrations.
CREATE DATABASE mlflow_auth OWNER mlflow;
