"""Runner configurations: functions without required arguments, referred to as `RRF_gym_tasks.agents.ppo:<name>`."""
