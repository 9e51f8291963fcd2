"""What the tests stand on: real servers, a faulty network, and an independent oracle.

Imported as ``support`` (pytest puts the folder of ``tests/conftest.py`` on ``sys.path``).
Nothing here imports rumpx: the tests must be able to contradict it.
"""
