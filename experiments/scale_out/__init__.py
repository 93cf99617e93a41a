"""One study, many processes on many machines: nothing lost when they are killed, and what sharing costs."""
