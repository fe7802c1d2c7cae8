"""rawservers and its peers, side by side in one run: python3 -m bench

In reading order: `works.py` says what is done and which bars are set, `servers.py` who is compared, `load.py` what the
clients say, `compare.py` gives everybody a turn. `footprint.py` and `fresh.py` measure what is no matter of speed.
`report.py` and `chart.py` put it down. `latency.py`, `growth.py` and `pythons.py` are runs of their own, `against.py` compares
two checkouts, `capacity.py` calculates from one node to many. `faults.py` is a command of its own: honest clients beside
hostile ones.
"""
