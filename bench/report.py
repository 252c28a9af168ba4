"""Figures of a run: medians, ratios and goals, as a table and as JSON."""
import json
from statistics import median


def rate(value):
    return f"{value / 1000:.0f}k/s" if value >= 10000 else f"{value:.0f}/s"


class Series:
    """What repeated runs of one contender gave: rates, and CPU seconds where they are known."""

    def __init__(self):
        self.rates = []
        self.cpu = []           # (main thread, other threads)

    def add(self, count, seconds, cpu=None):
        self.rates.append(count / seconds)
        if cpu:
            self.cpu.append(cpu)

    @property
    def median(self):
        return median(self.rates)

    def __str__(self):
        if not self.rates:
            return "-"
        if len(self.rates) == 1:
            return rate(self.median)
        return f"{rate(self.median)} ({rate(min(self.rates))}..{rate(max(self.rates))})"


class Report:
    def __init__(self, path):
        self.path = path
        self.lines = []
        self.data = {}
        self.missed = []

    def say(self, text=""):
        print(text, flush=True)
        self.lines.append(text)

    def goal(self, name, value, wanted, at_least=True):
        """Says whether a goal is reached, and remembers if not."""
        reached = value >= wanted if at_least else value <= wanted
        if not reached:
            self.missed.append(name)
        return "ok" if reached else "MISSED"

    def throughput(self, name, series, against, goal, peer=None, peer_goal=None):
        """The extension against a reference and a peer (series: name -> Series); the goals are for the ratios."""
        ours = series["pg_kafka_sync"]
        self.say(f"{name}")
        self.say(f"    {'pg_kafka_sync':<26}{ours}")
        goals = {against: goal, peer: peer_goal}
        for other, theirs in series.items():
            if other == "pg_kafka_sync" or not theirs.rates:
                continue
            ratio = ours.median / theirs.median
            line = f"    {other:<26}{str(theirs):<34}ratio {ratio:.2f}"
            if goals.get(other):
                line += f"  goal {goals[other]:g}  {self.goal(f'{name}: {ratio:.2f} of {other}', ratio, goals[other])}"
            self.say(line)
        for other, s in series.items():
            if s.cpu:
                self.say(f"    {'CPU of ' + other:<40}{median(c[0] for c in s.cpu):.2f} s main thread, "
                         f"{median(c[1] for c in s.cpu):.2f} s others")
        self.data[name] = {n: {"rates": s.rates, "cpu": s.cpu} for n, s in series.items()}

    def absolute(self, name, series, goal, peer=None):
        """The extension against a goal in rows a second, and a peer."""
        ours = series["pg_kafka_sync"]
        self.say(f"{name}")
        self.say(f"    {'pg_kafka_sync':<26}{str(ours):<34}            goal {rate(goal)}  "
                 f"{self.goal(f'{name}: {rate(ours.median)}', ours.median, goal)}")
        if peer and series[peer].rates:
            self.say(f"    {peer:<26}{str(series[peer]):<34}ratio {ours.median / series[peer].median:.2f}")
        if ours.cpu:
            self.say(f"    {'CPU of pg_kafka_sync':<40}{median(c[0] for c in ours.cpu):.2f} s main thread, "
                     f"{median(c[1] for c in ours.cpu):.2f} s others")
        self.data[name] = {n: {"rates": s.rates, "cpu": s.cpu} for n, s in series.items()}

    def share(self, name, series, reference, what, goal):
        """One series against another of ours; the goal is for the ratio."""
        ratio = series.median / reference.median
        self.say(f"{name}")
        self.say(f"    {'pg_kafka_sync':<26}{str(series):<34}ratio {ratio:.2f}  of {what}  goal {goal:g}  "
                 f"{self.goal(f'{name}: {ratio:.2f} of {what}', ratio, goal)}")
        self.data[name] = {"rates": series.rates, "cpu": series.cpu}

    def latency(self, name, figures, goal=None):
        """Percentiles in milliseconds: {"p50", "p95", "p99", "max", "count"}."""
        line = (f"    {name:<38}p50 {figures['p50']:.1f}  p95 {figures['p95']:.1f}  p99 {figures['p99']:.1f}  "
                f"max {figures['max']:.0f} ms  (n={figures['count']})")
        if goal:
            p99 = figures["p99"]
            line += f"  goal p99 < {goal}  {self.goal(f'{name}: p99 {p99:.1f} ms', p99, goal, False)}"
        self.say(line)
        self.data[f"latency {name}"] = figures

    def memory(self, peaks, goal):
        """Peaks by kind of process: [(title, anonymous, unshared, resident)] in MB."""
        kinds = {}
        for title, anonymous, unshared, resident in peaks:
            words = title.replace("postgres:", "").split()
            kind = " ".join(words[1:2]) or title
            old = kinds.get(kind, (0, 0, 0))
            kinds[kind] = (max(old[0], anonymous), max(old[1], unshared), max(old[2], resident))
        self.say("memory, highest of all workers at any time")
        for kind, (anonymous, unshared, _) in sorted(kinds.items()):
            line = f"    {kind:<26}{anonymous:.0f} MB anonymous, {unshared:.0f} MB resident without shared buffers"
            if kind in ("publisher", "subscription"):
                line += f"  goal < {goal} MB  {self.goal(f'memory of {kind}: {unshared:.0f} MB', unshared, goal, False)}"
            self.say(line)
        self.data["memory"] = kinds

    def end(self):
        self.say()
        self.say("all goals reached" if not self.missed else "goals missed: " + "; ".join(self.missed))
        with open(f"{self.path}.txt", "w") as file:
            file.write("\n".join(self.lines) + "\n")
        with open(f"{self.path}.json", "w") as file:
            json.dump(self.data, file, indent=1)
