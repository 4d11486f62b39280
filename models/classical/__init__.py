"""Classical estimators that the networks are measured against: maximum likelihood fits and their bounds."""
