/*
 * problems.h: which line of kafka.problems is about what, for a publisher.
 */
#ifndef KS_PROBLEMS_H
#define KS_PROBLEMS_H

#define KS_PROBLEM_WALL_CLOCK 0
#define KS_PROBLEM_PARTITIONS 1
#define KS_PROBLEM_TOAST 2

#endif							/* KS_PROBLEMS_H */
