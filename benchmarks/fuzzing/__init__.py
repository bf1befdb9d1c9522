"""Fuzzing of every parser that an outsider's bytes reach: `make fuzz`, and a short version among the fast tests.

targets   what is fuzzed: a table of names, each with seeds and one function of bytes
limits    the property: a normal answer or the lab's own error, within a time and a memory limit
mutate    mutations that know JSON, numbers and each target's own words; the same in both engines
engines   coverage-guided (atheris, libFuzzer) where it is installed, else a plain loop over mutated seeds
"""
