"""Stage `report`: the results of all configured data sets in one table."""

from mmlop import config, report
from pipelines import stage


def main() -> None:
    print(report.to_markdown(report.write(config.root(), config.load().datasets)))


if __name__ == "__main__":
    stage.run("report", main)
