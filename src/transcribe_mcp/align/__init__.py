"""Word timestamps: ``words`` splits tokens into words, ``times`` finds their times in speech,
``borders`` refines them.
"""
