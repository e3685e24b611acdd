"""Lift the cube that the instruction names: mjlab's Yam arm, coloured cubes, cameras, language.

    command    which cube, where cubes start, what became of them
    terms      observations, rewards and terminations of the task
    scene      mjlab's configuration: robot, cubes, cameras, terms
    env        the environment and its options
    agents     how it is trained
"""
