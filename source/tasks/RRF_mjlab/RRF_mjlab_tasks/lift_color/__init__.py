"""Lift the cube that the instruction names: mjlab's Yam arm, coloured cubes, cameras, language.

command    which cube, where cubes start, what became of them
terms      observations, rewards and terminations of the task
scene      mjlab's configuration: robot, cubes, cameras, terms
env_cfg    the options of the environment
vec_env    the environment
tasks      ids
agents     how it is trained
teacher.pt a trained teacher: its actor alone, to record demonstrations with
"""
