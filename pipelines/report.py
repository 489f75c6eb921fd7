"""Stage `report`: the results of everything configured in one report."""

from mmlop import config, report, tables
from pipelines import stage


def main() -> None:
    root = config.root()
    print(tables.to_markdown(report.write(root, report.files(root, config.load()))))


if __name__ == "__main__":
    stage.run("report", main)
