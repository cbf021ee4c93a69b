"""The questions of one subject, for tasks that lm-eval runs."""


def of(subject):
    return lambda rows: rows.filter(lambda row: row["subject"] == subject)


art = of("art")
astronomy = of("astronomy")
history = of("history")
literature = of("literature")
