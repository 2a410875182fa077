"""The gate: a policy over the figures and findings of an audit, and the differences between two audits."""
