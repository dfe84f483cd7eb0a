"""Multi-agent particle tasks: Cooperative Navigation, Predator-Prey and Triangle Area."""
