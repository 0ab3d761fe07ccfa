from nlnet.cli.runs import main

if __name__ == "__main__":
    main()
