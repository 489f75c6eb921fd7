"""Stage `report`: the results of everything configured in one report."""

from mmlop import config, page, tables
from pipelines import stage


def main() -> None:
    print(tables.to_markdown(page.write(config.root(), config.load())))


if __name__ == "__main__":
    stage.run("report", main)
