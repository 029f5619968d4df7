"""Scorers that a user might write."""


def length(prompts, responses):
    return [float(len(response)) for response in responses]


def vowels(prompts, responses):
    return [sum(letter in "aeiou" for letter in response) / (1 + len(response)) for response in responses]


def broken(prompts, responses):
    return [float("nan") if index == 1 else 0.0 for index in range(len(responses))]


def no_words(prompts, responses):
    return [len(response.split()[99]) for response in responses]


def one_list(responses):
    return [float(len(response)) for response in responses]


def nothing(prompts, responses):
    vowels(prompts, responses)
