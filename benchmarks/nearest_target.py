"""
What a user of N→M would take instead: the target of the nearest training source (TF-IDF, character 2–5-grams).

    python benchmarks/nearest_target.py $DATA/chatbot_ko/train.jsonl $DATA/chatbot_ko/test.jsonl source target
"""

import argparse

from sklearn.feature_extraction.text import TfidfVectorizer

from hftk.tasks.metrics import TranslationScores
from hftk.tasks.rows import read_rows

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("train", "test", "source", "target"):
        parser.add_argument(name, metavar=name.upper())
    arguments = parser.parse_args()
    train, test = ([row for _, row in read_rows(file)] for file in (arguments.train, arguments.test))
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(2, 5), sublinear_tf=True)
    known = vectorizer.fit_transform([row[arguments.source] for row in train])
    asked = vectorizer.transform([row[arguments.source] for row in test])
    nearest = (asked @ known.T).argmax(axis=1).A1  # cosines, since rows have length 1
    found = [train[row][arguments.target] for row in nearest]
    wanted = [row[arguments.target] for row in test]
    print(TranslationScores(keep_in_memory=True).compute(predictions=found, references=wanted))
